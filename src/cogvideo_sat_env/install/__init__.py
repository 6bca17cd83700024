"""From a lock to a prefix: fetch and verify, link, pip stage, activation, receipt, rename."""
