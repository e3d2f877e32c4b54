"""A class of an application's own for its sessions, and their users."""

from __future__ import annotations

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    mapped_column,
    relationship,
)

from pyramid_limitedsession import SessionMixin


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    sessions: Mapped[list[WebSession]] = relationship(back_populates="user")


class WebSession(SessionMixin, Base):
    __tablename__ = "sessions"
    user_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL"), index=True
    )
    user: Mapped[User | None] = relationship(back_populates="sessions")
    address: Mapped[str | None] = mapped_column(String(45))


def session_columns(request, content):
    return {"address": request.client_addr}
