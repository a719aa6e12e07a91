"""Checksum of CIFAR-10's python archive, as its authors publish it."""

MD5 = "c58f30108f718f92721af3b95e74349a"
