"""Where stages run: in this process, in a process pool or on Ray. Also the ranks of distributed training."""
