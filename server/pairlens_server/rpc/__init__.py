"""gRPC: servicers, conversion between messages and domain values, errors to statuses.

Nothing outside this package imports gRPC or protobuf.
"""
