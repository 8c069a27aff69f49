#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Keep a UDP socket open that hands ESP to the kernel, as an IKE daemon does.

usage: udp_encap.py PORT
Prints "ready", then waits for end of file on stdin.
"""
import socket
import sys

UDP_ENCAP = 100			# linux/udp.h
UDP_ENCAP_ESPINUDP = 2

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
sock.bind(("", int(sys.argv[1])))
print("ready", flush=True)
sys.stdin.read()
