from unit_networks import admit, layout, patient, trained

__all__ = ["admit", "layout", "patient", "trained"]
