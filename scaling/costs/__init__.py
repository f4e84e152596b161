"""Every estimate of what a study, its scoring or its judge will cost."""
