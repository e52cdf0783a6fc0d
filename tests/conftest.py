import torch

# On networks of this size a second thread costs more than it brings, and many times more beside another test process.
torch.set_num_threads(1)
