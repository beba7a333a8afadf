"""Digits and a copy task, trained by ``dni.DNI`` while the loss goes back."""
