"""Language models: Lethe's public call beside a plain formulation of what OpenUnlearning does (`plain`).

    python -m speed.language --size tiny          NPO and RMU, full and LoRA: seconds and peak memory; --device cuda --size 1.2b
"""
