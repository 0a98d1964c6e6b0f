"""Settings that say how long what is done stays in Redis."""

from pydantic_settings import BaseSettings

from saga.setting import CONFIG, setting


class RetentionSettings(BaseSettings):
    """Spans in seconds, counted from the end of a saga."""

    model_config = CONFIG

    SAGA_RETENTION: float = setting(
        30 * 86400.0, "seconds that finished sagas stay readable; 0: for ever", "2592000", ge=0
    )
    EVENT_RETENTION: float = setting(
        90 * 86400.0,
        "seconds that the event of a finished saga can be published again (`saga republish`), some "
        "800 bytes each; 0: for ever",
        "7776000",
        ge=0,
    )
