"""What instructions compute: functions of numpy arrays, without the machine."""
