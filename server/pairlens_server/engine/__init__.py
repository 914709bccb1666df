"""One queue, one device thread: requests that arrive together share a forward pass."""
