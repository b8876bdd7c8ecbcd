"""Networks on a device, to predict there."""

from weightspace.networks.collection import Collection


def placed(networks: Collection, device: str) -> Collection:
    """Networks whose weights and buffers are on a device, without masks, as pruned weights are zero.

    Args:
        networks: Networks on the CPU.
        device: The device; on the CPU they stay as they are.
    """
    if device == "cpu":
        return networks
    return Collection(
        networks.layout,
        networks.weights.to(device),
        architecture=networks.architecture,
        buffers={name: buffer.to(device) for name, buffer in networks.buffers.items()},
        records=networks.records,
    )
