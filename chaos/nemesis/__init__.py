"""What is done to real processes from outside of them: to their network, to their disks."""
