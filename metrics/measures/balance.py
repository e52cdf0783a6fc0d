"""Which load-balancing layer belongs to which hidden layer."""

from plasticity.networks.layers.load_balancing import LoadBalance
from plasticity.networks.network import Network
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.resnet import ConvolutionBlock


def balanced_layers(network: Network) -> dict[str, LoadBalance]:
    """Returns the load-balancing layers by the name of the layer whose units they shift, as its activations are tapped."""
    found: dict[str, LoadBalance] = {}
    for path, module in network.named_modules():
        if not isinstance(module, HiddenLayer | ConvolutionBlock) or module.balance is None:
            continue
        name = module.name if isinstance(module, HiddenLayer) else f"{module.inner.name}_sum"
        steps = path.split(".")
        found[f"{steps[1]}.{name}" if steps[0] == "members" else name] = module.balance
    return found
