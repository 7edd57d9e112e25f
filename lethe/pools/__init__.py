"""Many models: references and shadows, how they are trained (backends), and forget sets that models choose."""
