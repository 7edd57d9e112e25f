"""The door: what is checked of a request, its data and its model before anything is trained (`lethe check-model`)."""
