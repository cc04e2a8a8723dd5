cpu_capability: str
torch_version: str
