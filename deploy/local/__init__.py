"""A load-balanced set of replicas on one machine: `python -m deploy.local`."""
