"""What models are trained and applied on."""

CPU, GPU = "cpu", "cuda"
DEVICES = (CPU, GPU)
GPU_HINTS = {"accelerator": "type:nvidia-l4;count:1;install-nvidia-driver", "min_ram": "32GB"}
"""What a step on a GPU asks a service for."""
