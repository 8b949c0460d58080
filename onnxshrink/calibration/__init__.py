"""Data for the models: what the user gives, or seeded synthetic inputs when there is none."""
