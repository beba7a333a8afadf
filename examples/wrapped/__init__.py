"""Digits and a copy task, trained by ``dni.DNI`` during ``loss.backward()``."""
