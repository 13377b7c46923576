"""What people see: the studio."""
