"""The operations, a folder each, by the names of those below csrc.

A short operation is one file, its `__init__.py`. A longer one has there what is public, and

- `options.py`: what the operators are told beside tensors, and the numbers that stand for names;
- `checks.py`: what is refused before a kernel starts;
- `terms.py`: what an operation is made of, in torch operations, for
- `formulas.py`: gradients and tangents that kernels do not compute; the nodes of csrc/autograd call
  them as the Functions do;
- `registrations.py`: shapes and batching, for torch.compile, export and torch.func;
- `function.py`: the autograd Functions around the operators, for a torch that native autograd was
  not built with;
- `functional.py`: the functional form, with its docstring; it asks makemore_ext._autograd first;
- `modules.py`: the layers;
- `parallel.py`: of tensors that are sharded over the processes of a group.

Each file may use those above it. What operations share is in `tensors.py` and `autograd.py`.
"""
