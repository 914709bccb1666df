"""Generated protobuf and gRPC stubs of the contract `pairlens.v1`."""
