"""Where stages run: in this process, in a pool of processes, or on Ray. And the processes of one training."""
