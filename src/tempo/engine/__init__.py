"""Where stages run: in this process, in a pool of processes, or on Ray; and the processes of a training."""
