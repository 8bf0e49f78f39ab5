"""`kata-monitor`: one program a node, which serves the metrics of all its sandboxes over HTTP."""
