def write_croissant(folder, manifest, data): pass
