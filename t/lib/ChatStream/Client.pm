# SPDX-License-Identifier: Apache-2.0
package ChatStream::Client;

# An HTTP/1.1 client that hides nothing: it sends what the test says, reads the answer as it comes, one event at a time, and
# goes away in any of the ways a browser does.
#
#     my $stream = ChatStream::Client->new(port => 8080, path => '/chat?message=hi');
#     $stream->status;                    # reads the head
#     my $event = $stream->event;         # { event, id, data, json, retry }; undef at the end of the body
#     $stream->abort;
#
# Every wait ends after `timeout` seconds (10) with die.

use strict;
use warnings;

use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP ();
use Socket qw(IPPROTO_TCP SOL_SOCKET SO_LINGER SO_RCVBUF TCP_NODELAY);
use Time::HiRes qw(time);

# Options: host, port or unix; from (our own address); tls, ca; method, path, headers (array of pairs, or hash), body, json (a
# structure to send), version ('1.1'); keep_alive; raw (the whole request as bytes; '' sends nothing yet); receive_buffer; timeout.
sub new
{
    my ($class, %options) = @_;
    my $self = bless {
        timeout => $options{timeout} || $ENV{CHATSTREAM_TIMEOUT} || 10,
        input   => '',    # bytes read, not yet taken apart
        body    => '',    # decoded body, as far as it has come
        taken   => 0,     # how much of the body event() has handed out
        bytes   => 0,     # everything read from the wire
        started => time,
    }, $class;
    $self->_connect(%options);
    $self->send($options{raw} // request_text(%options));
    return $self;
}

sub request_text
{
    my (%options) = @_;
    my $headers = $options{headers} || [];
    my @headers = ref $headers eq 'HASH' ? map { ($_, $headers->{$_}) } sort keys %$headers : @$headers;
    my $body = $options{body};
    my $method = $options{method};
    if (exists $options{json}) {
        $body = JSON::PP->new->utf8->canonical->encode($options{json});
        unshift @headers, 'Content-Type' => 'application/json';
    }
    $method //= defined $body ? 'POST' : 'GET';
    my %given;
    for (my $i = 0; $i < @headers; $i += 2) {
        $given{ lc $headers[$i] } = 1;
    }
    push @headers, Host => $options{host_header} || 'localhost' if !$given{host};
    push @headers, 'Content-Length' => length $body if defined $body && !$given{'content-length'} && !$given{'transfer-encoding'};
    push @headers, Connection => 'close' if !$options{keep_alive} && !$given{connection};

    my $text = "$method " . ($options{path} // '/') . ' HTTP/' . ($options{version} // '1.1') . "\r\n";
    while (my ($name, $value) = splice @headers, 0, 2) {
        $text .= "$name: $value\r\n";
    }
    return "$text\r\n" . ($body // '');
}

sub _connect
{
    my ($self, %options) = @_;
    my $socket;
    if ($options{unix}) {
        $socket = IO::Socket::UNIX->new(Peer => $options{unix}) or die "connect $options{unix}: $!\n";
    }
    else {
        $socket = IO::Socket::INET->new(Proto => 'tcp') or die "socket: $!\n";
        # Before the connection is made, or the window has already been offered.
        $socket->setsockopt(SOL_SOCKET, SO_RCVBUF, pack 'i', $options{receive_buffer}) if $options{receive_buffer};
        bind $socket, Socket::pack_sockaddr_in(0, Socket::inet_aton($options{from})) or die "bind $options{from}: $!\n"
            if $options{from};
        my $host = $options{host} || '127.0.0.1';
        connect $socket, Socket::pack_sockaddr_in($options{port}, Socket::inet_aton($host))
            or die "connect $host:$options{port}: $!\n";
        setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, pack('i', 1);
    }
    $self->{socket} = $socket;
    if ($options{tls}) {
        require IO::Socket::SSL;
        IO::Socket::SSL->start_SSL(
            $socket,
            SSL_hostname => 'localhost',
            $options{ca}
            ? (SSL_ca_file => $options{ca}, SSL_verifycn_name => 'localhost', SSL_verifycn_scheme => 'http')
            : (SSL_verify_mode => 0),
        ) or die 'TLS: ' . IO::Socket::SSL::errstr() . "\n";
        $self->{tls} = 1;
    }
    $socket->blocking(0);
    return;
}

sub send
{
    my ($self, $bytes) = @_;
    my $deadline = time + $self->{timeout};
    while (length $bytes) {
        my $sent = syswrite $self->{socket}, $bytes;
        if (defined $sent) {
            substr $bytes, 0, $sent, '';
            next;
        }
        # A server that answers early may close its side while a body is still being sent; the answer is what counts.
        return 0 if !$!{EAGAIN} && !$!{EWOULDBLOCK} && !$!{EINTR};
        die "timed out while sending\n" if time > $deadline;
        IO::Select->new($self->{socket})->can_write(0.1);
    }
    return 1;
}

# Reads what is there, waiting up to the deadline. True when bytes came, false at the end.
sub _fill
{
    my ($self, $deadline) = @_;
    return 0 if $self->{ended};
    while (1) {
        my $got = sysread $self->{socket}, my $bytes, 65536;
        if ($got) {
            $self->{bytes} += $got;
            $self->{input} .= $bytes;
            return 1;
        }
        if (defined $got || (!$!{EAGAIN} && !$!{EWOULDBLOCK} && !$!{EINTR})) {
            $self->{ended} = 1;
            $self->{read_error} = $! if !defined $got;
            return 0;
        }
        my $left = $deadline - time;
        die sprintf("timed out after %.1f s; so far: %s\n", $self->{timeout}, _shown($self->{body} . $self->{input})) if $left <= 0;
        IO::Select->new($self->{socket})->can_read($left > 0.25 ? 0.25 : $left);
    }
}

sub _shown
{
    my ($text) = @_;
    $text = '...' . substr $text, -400 if length $text > 400;
    $text =~ s/([^\x20-\x7e])/$1 eq "\n" ? '\n' : sprintf '\x%02x', ord $1/ge;
    return $text;
}

sub _deadline
{
    my ($self, $timeout) = @_;
    return time + ($timeout // $self->{timeout});
}

# ---- the head ----------------------------------------------------------------------------------------------------------

sub read_head
{
    my ($self, $timeout) = @_;
    return $self if $self->{status};
    my $deadline = $self->_deadline($timeout);
    while (1) {
        until ($self->{input} =~ /\r?\n\r?\n/) {
            $self->_fill($deadline) or die 'connection closed before the end of the head: ' . _shown($self->{input}) . "\n";
        }
        $self->{input} =~ s/^(.*?)\r?\n\r?\n//s;
        my ($line, @fields) = split /\r?\n/, $1;
        my ($version, $status) = $line =~ m{^HTTP/([\d.]+) (\d{3})} or die "not HTTP: $line\n";
        next if $status < 200 && $status != 101;
        @$self{qw(version status status_line)} = ($version, $status, $line);
        push @{ $self->{headers}{ lc $_->[0] } }, $_->[1] for map { [ split /:\s*/, $_, 2 ] } @fields;
        last;
    }
    my $length = $self->header('content-length');
    $self->{framing} =
          $self->{status} == 204 || $self->{status} == 304 ? 'none'
        : $self->_decoded ? 'close'
        : lc($self->header('transfer-encoding') // '') eq 'chunked' ? 'chunked'
        : defined $length ? 'length'
        :                   'close';
    $self->{left} = $length if $self->{framing} eq 'length';
    $self->{complete} = 1 if $self->{framing} eq 'none' || ($self->{framing} eq 'length' && !$length);
    return $self;
}

sub _decoded { 0 }    # true when somebody else (curl) takes transfer codings off

sub status { $_[0]->read_head->{status} }

# All values of a header joined with ", ", or undef.
sub header
{
    my ($self, $name) = @_;
    $self->read_head;
    my $values = $self->{headers}{ lc $name } or return undef;
    return join ', ', @$values;
}

sub headers { $_[0]->read_head->{headers} }

# ---- the body ----------------------------------------------------------------------------------------------------------

# Moves what has arrived from input to body. False when more bytes are needed.
sub _decode
{
    my ($self) = @_;
    my $framing = $self->{framing};
    my $before = length $self->{body};
    if ($framing eq 'close') {
        $self->{body} .= $self->{input};
        $self->{input} = '';
    }
    elsif ($framing eq 'length') {
        my $part = substr $self->{input}, 0, $self->{left}, '';
        $self->{body} .= $part;
        $self->{left} -= length $part;
        $self->{complete} = 1 if !$self->{left};
    }
    elsif ($framing eq 'chunked') {
        while (!$self->{complete}) {
            if (!defined $self->{chunk}) {
                $self->{input} =~ s/^([0-9A-Fa-f]+)[^\n]*\r\n// or last;
                $self->{chunk} = hex $1;
            }
            if ($self->{chunk} == 0) {
                $self->{input} =~ s/^(?:[^\r\n]+\r\n)*\r\n// or last;
                $self->{complete} = 1;
                last;
            }
            last if length $self->{input} < $self->{chunk} + 2;
            $self->{body} .= substr $self->{input}, 0, $self->{chunk}, '';
            substr $self->{input}, 0, 2, '';
            $self->{chunk} = undef;
        }
    }
    return length $self->{body} > $before || $self->{complete};
}

# More of the body; false at its end.
sub _more
{
    my ($self, $deadline) = @_;
    $self->read_head;
    return 0 if $self->{complete};
    while (!$self->_decode) {
        next if $self->_fill($deadline);
        $self->{complete} = 1 if $self->{framing} eq 'close';
        $self->{cut} = 1 if !$self->{complete};
        return 0;
    }
    return 1;
}

# The rest of the body, read to its end: all of it as a string.
sub body
{
    my ($self, $timeout) = @_;
    my $deadline = $self->_deadline($timeout);
    1 while $self->_more($deadline);
    return $self->{body};
}

sub json
{
    my ($self, $timeout) = @_;
    return JSON::PP->new->utf8->decode($self->body($timeout));
}

# What has arrived by now, without waiting.
sub so_far { $_[0]{body} }

# The next event; undef at the end of the body. `timeout` is for this one event.
sub event
{
    my ($self, $timeout) = @_;
    my $deadline = $self->_deadline($timeout);
    while (1) {
        while ((my $end = index $self->{body}, "\n\n", $self->{taken}) >= 0) {
            my $block = substr $self->{body}, $self->{taken}, $end - $self->{taken};
            $self->{taken} = $end + 2;
            my $event = _parse_event($block);
            $self->{retry} = $event->{retry} if defined $event->{retry};
            return $event if defined $event->{data};
        }
        $self->_more($deadline) or return undef;
    }
}

sub _parse_event
{
    my ($block) = @_;
    my %event = (event => 'message', at => time);
    for my $line (split /\n/, $block) {
        my ($field, $value) = $line =~ /^([^:]*)(?:: ?(.*))?$/s;
        $value //= '';
        if ($field eq 'data') {
            $event{data} = defined $event{data} ? "$event{data}\n$value" : $value;
        }
        elsif ($field eq 'event' || $field eq 'id' || $field eq 'retry') {
            $event{$field} = $value;
        }
    }
    $event{json} = eval { JSON::PP->new->utf8->decode($event{data}) } if defined $event{data} && $event{data} =~ /^\{/;
    return \%event;
}

# The next event that is not a heartbeat.
sub next_event
{
    my ($self, $timeout) = @_;
    while (my $event = $self->event($timeout)) {
        return $event if $event->{event} ne 'heartbeat';
    }
    return undef;
}

# The next event whose type (native format) is `type`; dies when the stream ends first.
sub event_of
{
    my ($self, $type, $timeout) = @_;
    while (my $event = $self->event($timeout)) {
        return $event if ref $event->{json} && ($event->{json}{type} // '') eq $type;
    }
    die "the stream ended without an event of type $type\n";
}

# All events to the end.
sub events
{
    my ($self, $timeout) = @_;
    my @events;
    while (my $event = $self->event($timeout)) {
        push @events, $event;
    }
    return @events;
}

# Text of all token events to the end.
sub answer
{
    my ($self, $timeout) = @_;
    return join '', map { ref $_->{json} && ($_->{json}{type} // '') eq 'token' ? $_->{json}{content} : '' } $self->events($timeout);
}

sub retry { $_[0]{retry} }

# The body was read to its proper end (last chunk, Content-Length), not cut.
sub complete { $_[0]{complete} && !$_[0]{cut} ? 1 : 0 }
sub bytes    { $_[0]{bytes} }
sub socket   { $_[0]{socket} }

# True when the server closes its side within `timeout` seconds.
sub wait_closed
{
    my ($self, $timeout) = @_;
    my $deadline = $self->_deadline($timeout);
    while (eval { $self->_fill($deadline) }) { }
    return $self->{ended} ? 1 : 0;
}

# ---- going away --------------------------------------------------------------------------------------------------------

sub close
{
    my ($self) = @_;
    my $socket = delete $self->{socket} or return;
    $self->{ended} = 1;
    CORE::close $socket;
    return;
}

# Closes with RST: what a killed browser or a lost network looks like.
sub abort
{
    my ($self) = @_;
    my $socket = $self->{socket} or return;
    setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
    # A TLS close would say goodbye first.
    if ($self->{tls}) {
        $socket->close(SSL_no_shutdown => 1);
        delete $self->{socket};
        $self->{ended} = 1;
        return;
    }
    $self->close;
    return;
}

# Ends our side only; the answer can still be read. On a TLS connection this is the TCP side, without close_notify.
sub half_close
{
    my ($self) = @_;
    shutdown $self->{socket}, 1;
    return;
}

1;
