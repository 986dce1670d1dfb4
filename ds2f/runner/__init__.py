"""The stateful side: devices, processes, time and what a run leaves behind."""
