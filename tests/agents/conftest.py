from builders import builder, same, through_disk

__all__ = ["builder", "same", "through_disk"]
