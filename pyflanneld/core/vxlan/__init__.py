"""Pure: what is vxlan's own: its options, what a lease says for it, its device, its forwarding entries."""
