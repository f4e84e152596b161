from interp.decoding.model_runner import ModelRunner
from interp.decoding.generic_runner import GenericRunner
def runner_for(model, name):
    return GenericRunner if name == "generic" else ModelRunner
