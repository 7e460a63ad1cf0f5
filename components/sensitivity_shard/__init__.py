from components.sensitivity_shard.component import sensitivity_shard

__all__ = ["sensitivity_shard"]
