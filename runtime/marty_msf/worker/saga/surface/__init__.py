"""What people ask of instances and see of them; shared by the command line and the HTTP surface."""
