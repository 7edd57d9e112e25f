"""What each family of models can do: abstract classes that methods and audits name in their signatures.

A family `provides` a set of operations; a method `uses` some. A method fits every family that provides all it uses. Besides
operations, `provides` names what stands in a batch: "inputs" (column `x`: what the model maps, and what a method may perturb),
"labels" (column `y`: class numbers), "targets" (column `y`: real numbers).
The sets are literals: `lethe.core.catalogue` reads them from the source text.
"""
