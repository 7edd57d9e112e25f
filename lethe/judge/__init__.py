"""The auditor: panel, verdict, yardstick, neighbours, battery of attacks, conclusions, triage."""
