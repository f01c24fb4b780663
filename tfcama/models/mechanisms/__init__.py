"""How M acts on X: the one place where m enters p(x | y, z, m) and q(z | x, y, m)."""
