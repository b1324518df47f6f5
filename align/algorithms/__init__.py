"""What each method computes, and nothing of how."""
