"""What a run is, apart from how its network is trained: arguments, data, directory, record and evaluation."""
