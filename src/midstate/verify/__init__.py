"""An independent check of any checkpoint: `python -m midstate.verify FILE`. It knows torch and safetensors only.

| module     | answers                                                         |
|------------|-----------------------------------------------------------------|
| `reading`  | which tensors a file has, without running anything of it        |
| `programs` | the same of what torch.export writes                            |
| `layers`   | which of them are weights of layers, masks applied              |
| `groups`   | how many non-zeros the groups of a weight have, along each axis |
| `judging`  | what a layer obeys, and what the file comes to                  |
| `report`   | how that is told                                                |
"""
