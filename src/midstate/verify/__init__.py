"""An independent check of any checkpoint: `python -m midstate.verify FILE`. It needs torch and safetensors only.

| module     | answers                                                         |
|------------|-----------------------------------------------------------------|
| `reading`  | which tensors a file has, without running code of the file      |
| `programs` | the same for files of torch.export                              |
| `layers`   | which tensors are weights of layers, with masks applied         |
| `groups`   | how many non-zeros the groups of a weight have, along each axis |
| `judging`  | which pattern each layer obeys, and the verdict on the file     |
| `report`   | the verdict as text or JSON                                     |
"""
