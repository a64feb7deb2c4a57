"""What tests with real processes share: a daemon to start and kill, payloads that write evidence, and its checker."""
