"""What people see of dead letters and do to them: shared by the HTTP surface and the command line."""
