"""The doctor on several nodes: a coordinator, its clients, and what differs between hosts."""
