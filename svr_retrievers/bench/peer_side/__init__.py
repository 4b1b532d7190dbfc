"""What runs in the processes of other stores, with their own Python: it needs the store and numpy, nothing of ours."""
