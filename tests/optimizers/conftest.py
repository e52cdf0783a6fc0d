from unit_networks import admit, patient

__all__ = ["admit", "patient"]
