"""Looking at runs: what every view of them asks, answered from their journals."""
