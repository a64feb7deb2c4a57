"""The commands of `runners-client`. One file a group: none loads what another needs."""
