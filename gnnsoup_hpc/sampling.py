def resolved(s):
    return "own"


def samples(*a):
    raise NotImplementedError


def pyg_samples(*a):
    raise NotImplementedError
