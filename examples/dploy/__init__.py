"""dploy: a small application deployment system, as four services and a client. See README.md."""
