"""What is trained once and reused: reward models and DPO policies, by key."""
