"""What a study takes on given devices, counted before anything is trained."""
